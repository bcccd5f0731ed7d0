package xds

import (
	"iter"
	"strconv"
)

// A known is what istiod has sent and not taken back: the kinds of resources and
// their versions, by name. The zero known is empty.
//
// A version is what to tell istiod that we have. It is "", which is no version,
// of a resource that was refused: it is then sent again, and so is its removal.
type known struct {
	// Nearly all that there is are workloads, and versions are hashes: 16 digits,
	// which as a number take a third of the memory.
	workloads map[string]uint64
	others    map[string]version
}

// A version is that of a resource, and its kind.
type version struct {
	text string
	kind kind
}

func (k *known) len() int { return len(k.workloads) + len(k.others) }

// kind returns the kind of a resource, and whether it is known.
func (k *known) kind(name string) (kind, bool) {
	if _, ok := k.workloads[name]; ok {
		return aWorkload, true
	}
	v, ok := k.others[name]
	return v.kind, ok
}

func (k *known) put(name string, as kind, text []byte) {
	if number, ok := hexadecimal(text); ok && as == aWorkload {
		if k.workloads == nil {
			k.workloads = map[string]uint64{}
		}
		delete(k.others, name)
		k.workloads[name] = number
		return
	}
	if k.others == nil {
		k.others = map[string]version{}
	}
	delete(k.workloads, name)
	k.others[name] = version{string(text), as}
}

func (k *known) remove(name string) {
	delete(k.workloads, name)
	delete(k.others, name)
}

// all iterates over the versions by name.
func (k *known) all() iter.Seq2[string, string] {
	return func(yield func(name, version string) bool) {
		for name, number := range k.workloads {
			if !yield(name, strconv.FormatUint(number, 16)) {
				return
			}
		}
		for name, v := range k.others {
			if !yield(name, v.text) {
				return
			}
		}
	}
}

// hexadecimal reads a number that is written as strconv.FormatUint writes it.
func hexadecimal(text []byte) (x uint64, ok bool) {
	if len(text) == 0 || len(text) > 16 || text[0] == '0' && len(text) > 1 {
		return 0, false
	}
	for _, c := range text {
		switch {
		case c >= '0' && c <= '9':
			x = x<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			x = x<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return x, true
}
