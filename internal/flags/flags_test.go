package flags

import (
	"testing"
	"time"
)

func TestValuesAreRead(t *testing.T) {
	if d, err := Duration("45"); err != nil || d != 45*time.Second {
		t.Errorf("a bare number: got %v, %v", d, err)
	}
	if n, err := Loops("1%"); err != nil || n != 1 {
		t.Errorf("1%% of the cores: got %d, %v", n, err)
	}
	if c, err := Collector("http://[::1]:9999"); err != nil || c != (Endpoint{"[::1]:9999", false}) {
		t.Errorf("collector: got %+v, %v", c, err)
	}
	if c, err := Collector("host:1"); err != nil || c != (Endpoint{"host:1", false}) {
		t.Errorf("collector: got %+v, %v", c, err)
	}
	if l, err := List("a, b,,"); err != nil || len(l) != 2 || l[1] != "b" {
		t.Errorf("list: got %q, %v", l, err)
	}
	for _, good := range []string{":0", "127.0.0.1:15000", "[::1]:15000", "localhost:1"} {
		if _, err := Listen(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	if _, err := Bool("perhaps"); err == nil {
		t.Error("perhaps is a bool")
	}
}
