// Package flags is how the programs read what they are told: by flags, and by the
// environment where a flag is not given. Each value has one function that reads
// it, whose errors say what is wrong; who calls adds which flag or variable, and
// which value.
package flags

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Environment is the annotation that holds the variables a flag is read from when
// it is not given.
const Environment = "waystone_environment"

// A value is a flag of any type, with its own way to be read.
type value[T any] struct {
	into  *T
	parse func(string) (T, error)
	kind  string // as the help calls it
	text  string
}

func (v *value[T]) Set(s string) error {
	x, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.into, v.text = x, s
	return nil
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

// IsBoolFlag has pflag's help leave out what it would say about a value.
func (v *value[T]) IsBoolFlag() bool { return v.kind == "bool" }

// Define adds a flag that is also read from the first of some variables that is
// set. Its default is text, which must be right.
func Define[T any](set *pflag.FlagSet, into *T, name, kind, text string, parse func(string) (T, error), usage string, variables ...string) {
	v := &value[T]{into: into, parse: parse, kind: kind}
	if text != "" {
		if err := v.Set(text); err != nil {
			panic("flags: default of --" + name + ": " + err.Error())
		}
	}
	if len(variables) > 0 {
		usage += " [" + strings.Join(variables, ", ") + "]"
	}
	f := set.VarPF(v, name, "", usage)
	if kind == "bool" {
		f.NoOptDefVal = "true"
	}
	f.Annotations = map[string][]string{Environment: variables}
}

// FromEnvironment sets the flags that were not given from their variables.
func FromEnvironment(set *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	set.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			return
		}
		for _, name := range f.Annotations[Environment] {
			text, ok := lookup(name)
			if !ok || text == "" {
				continue
			}
			if err := f.Value.Set(text); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s (as --%s): %q: %w", name, f.Name, text, err))
			}
			f.Changed = true // given, this way or that
			return
		}
	})
	return errors.Join(errs...)
}

// required reports the flags that were given neither way.
func required(set *pflag.FlagSet, names ...string) error {
	var errs []error
	for _, name := range names {
		if f := set.Lookup(name); f.Value.String() == "" {
			errs = append(errs, fmt.Errorf("flag --%s: is required: %s", name, f.Usage))
		}
	}
	return errors.Join(errs...)
}

// flagError says which flag, which value and why.
func flagError(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return fmt.Errorf("flag --%s: %q: %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	}
	return err
}

// Command finishes a command: its errors name the flag, and its flags are read
// from the environment before run.
func Command(c *cobra.Command, run func(*cobra.Command) error, needs ...string) *cobra.Command {
	c.Args = cobra.NoArgs
	c.SilenceUsage = true // the error says what is wrong; the help is a page
	c.SetFlagErrorFunc(flagError)
	c.Flags().SortFlags = false
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := FromEnvironment(c.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if err := required(c.Flags(), needs...); err != nil {
			return err
		}
		return run(c)
	}
	return c
}

// Text takes anything.
func Text(s string) (string, error) { return s, nil }

// Bool reads true and false, and what Go takes for them.
func Bool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("is neither true nor false")
	}
	return b, nil
}

// List reads words with commas between them.
func List(s string) ([]string, error) {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list, nil
}

// Size reads a number of bytes or of things; 0 is not one.
func Size(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n > 1<<31-1 {
		return 0, errors.New("is not a number from 1 to 2147483647")
	}
	return uint32(n), nil
}

// Percent reads a share of 100, with the sign or without.
func Percent(s string) (float64, error) {
	x, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(x >= 0 && x <= 100) {
		return 0, errors.New("is not a percentage from 0 to 100")
	}
	return x, nil
}

// Duration reads Go's form, and a bare number of seconds.
func Duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if n, err2 := strconv.ParseUint(s, 10, 31); err2 == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return 0, errors.New(`is not a duration: write "90s", "5m" or a number of seconds`)
	}
	return d, nil
}

// Loops reads a number of loops as ztunnel reads its threads: a number, a
// share of the cores, or 0 for all of them.
func Loops(s string) (int, error) {
	if share, ok := strings.CutSuffix(s, "%"); ok {
		x, err := strconv.ParseFloat(share, 64)
		if err != nil || !(x > 0 && x <= 100) {
			return 0, errors.New("is not a share of the cores from 1% to 100%")
		}
		return max(1, int(float64(runtime.GOMAXPROCS(0))*x/100)), nil
	}
	n, err := strconv.ParseUint(s, 10, 10)
	if err != nil {
		return 0, errors.New(`is neither a number up to 1023 nor a share of the cores ("50%")`)
	}
	return int(n), nil
}

// Records reads who protects TLS records.
func Records(s string) (cryptoTLS bool, err error) {
	switch s {
	case "own":
		return false, nil
	case "crypto/tls":
		return true, nil
	}
	return false, errors.New("is neither own nor crypto/tls")
}

// Listen reads an address to listen on. The host may be empty, but no name:
// a name may have several addresses.
func Listen(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New(`is not an address to listen on: write "127.0.0.1:15000" or ":15000"`)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("the port %q is not 0 to 65535", port)
	}
	if host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", fmt.Errorf("%q is not an IP address", host)
		}
	}
	return s, nil
}

// OptionalListen also takes "off".
func OptionalListen(s string) (string, error) {
	if s == "off" {
		return s, nil
	}
	return Listen(s)
}

// Format reads the format of a log.
func Format(s string) (json bool, err error) {
	switch s {
	case "json":
		return true, nil
	case "plain":
		return false, nil
	}
	return false, errors.New("is neither json nor plain")
}

// An Endpoint is where an OTLP collector listens.
type Endpoint struct {
	Address string // host:port
	TLS     bool
}

// Collector reads OTLP's URL form, and a bare host:port.
func Collector(s string) (Endpoint, error) {
	if !strings.Contains(s, "://") {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return Endpoint{}, errors.New(`is not the address of a collector: write "host:4317" or "http://host:4317"`)
		}
		return Endpoint{Address: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Endpoint{}, errors.New(`is not the URL of a collector: write "http://host:4317" or "https://host:4317"`)
	}
	c := Endpoint{Address: u.Host, TLS: u.Scheme == "https"}
	if u.Port() == "" {
		c.Address = net.JoinHostPort(u.Hostname(), "4317")
	}
	return c, nil
}

// Name reads namespace/name.
func Name(s string) (ObjectName, error) {
	ns, n, ok := strings.Cut(s, "/")
	if !ok || ns == "" || n == "" || strings.Contains(n, "/") {
		return ObjectName{}, errors.New("is not of the form namespace/name")
	}
	return ObjectName{ns, n}, nil
}

// An ObjectName is that of an object of a namespace.
type ObjectName struct{ Namespace, Name string }

// Span reads a duration that is one.
func Span(s string) (time.Duration, error) {
	d, err := Duration(s)
	if err == nil && d == 0 {
		err = errors.New("is no time at all")
	}
	return d, err
}
