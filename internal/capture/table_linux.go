package capture

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// A table is what we program, in the namespace of the calling thread.
type table struct {
	name   string
	chains []chain
	sets   []*nftables.Set // of it; their elements are the caller's
}

func (t table) nft() *nftables.Table {
	return &nftables.Table{Name: t.name, Family: nftables.TableFamilyINet}
}

// replace writes the table in one transaction: either all of it takes the
// place of what was there, or nothing changes.
func (t table) replace(c *nftables.Conn) error {
	c.AddTable(t.nft()) // so that there is one to delete
	c.DelTable(t.nft())
	nt := c.AddTable(t.nft())
	for _, s := range t.sets {
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("table inet %s, set %s: %w", t.name, s.Name, err)
		}
	}
	for _, ch := range t.chains {
		nc := c.AddChain(&nftables.Chain{Name: ch.name, Table: nt, Type: ch.kind, Hooknum: ch.hook, Priority: ch.priority})
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: nt, Chain: nc, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("table inet %s: %w", t.name, err)
	}
	return nil
}

func (t table) remove(c *nftables.Conn) error {
	if there, err := t.there(c); err != nil || !there {
		return err
	}
	c.DelTable(t.nft())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing table inet %s: %w", t.name, err)
	}
	if there, err := t.there(c); err != nil || there {
		return errors.Join(err, fmt.Errorf("table inet %s: still there after its removal", t.name))
	}
	return nil
}

func (t table) there(c *nftables.Conn) (bool, error) {
	all, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("listing tables: %w", err)
	}
	for _, o := range all {
		if o.Name == t.name {
			return true, nil
		}
	}
	return false, nil
}

// verify reads the table back and reports the first thing that is not as we
// write it.
func (t table) verify(c *nftables.Conn) error {
	there, err := t.there(c)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("table inet %s: missing", t.name)
	}
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("listing chains: %w", err)
	}
	got := map[string]*nftables.Chain{}
	for _, ch := range all {
		if ch.Table.Name == t.name {
			got[ch.Name] = ch
		}
	}
	for _, ch := range t.chains {
		if err := t.verifyChain(c, ch, got[ch.name]); err != nil {
			return fmt.Errorf("table inet %s, chain %s: %w", t.name, ch.name, err)
		}
		delete(got, ch.name)
	}
	for name := range got {
		return fmt.Errorf("table inet %s, chain %s: not ours", t.name, name)
	}
	return nil
}

func (t table) verifyChain(c *nftables.Conn, want chain, got *nftables.Chain) error {
	if got == nil {
		return errors.New("missing")
	}
	if got.Type != want.kind || got.Hooknum == nil || *got.Hooknum != *want.hook || got.Priority == nil || *got.Priority != *want.priority {
		return errors.New("wrong type, hook or priority")
	}
	if got.Policy != nil && *got.Policy != nftables.ChainPolicyAccept {
		return errors.New("its policy drops")
	}
	rules, err := c.GetRules(t.nft(), got)
	if err != nil {
		return fmt.Errorf("listing rules: %w", err)
	}
	for i, r := range want.rules {
		if i >= len(rules) {
			return fmt.Errorf("rule %d (%v): missing", i+1, r)
		}
		if same, err := sameExprs(rules[i].Exprs, r.exprs); err != nil || !same {
			return errors.Join(fmt.Errorf("rule %d (%v): another is in its place", i+1, r), err)
		}
	}
	if len(rules) > len(want.rules) {
		return fmt.Errorf("%d rules that are not ours", len(rules)-len(want.rules))
	}
	return nil
}

func sameExprs(got, want []expr.Any) (bool, error) {
	if len(got) != len(want) {
		return false, nil
	}
	for i := range want {
		g, err := wire(got[i])
		if err != nil {
			return false, err
		}
		w, err := wire(want[i])
		if err != nil {
			return false, err
		}
		if !bytes.Equal(g, w) {
			return false, nil
		}
	}
	return true, nil
}

// wire is e in netlink's encoding, without what is not for us to say or not to
// be read: what a counter has counted, and the register that sets a field of
// conntrack, which the library writes and does not read.
func wire(e expr.Any) ([]byte, error) {
	switch x := e.(type) {
	case *expr.Counter:
		e = &expr.Counter{}
	case *expr.Ct:
		if x.SourceRegister {
			e = &expr.Ct{Key: x.Key}
		}
	}
	return expr.Marshal(byte(nftables.TableFamilyINet), e)
}
