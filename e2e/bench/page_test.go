package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/report.md anew")

func testReport(t *testing.T) *report {
	t.Helper()
	r, err := results{dir: "testdata"}.read()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPage renders a report that was made up by hand.
func TestPage(t *testing.T) {
	notes, err := os.ReadFile("testdata/notes.md")
	if err != nil {
		t.Fatal(err)
	}
	got, err := markdown(testReport(t), string(notes))
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.md"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range gotLines {
			if i >= len(wantLines) || gotLines[i] != wantLines[i] {
				t.Fatalf("line %d:\ngot  %s\nwant %s\n(-rewrite writes it anew)", i+1, gotLines[i], wantLines[min(i, len(wantLines)-1)])
			}
		}
		t.Error("lines are missing at the end")
	}
}

// TestRender writes a page from a directory with numbers and notes, and the
// numbers as they were.
func TestRender(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"report.json", "notes.md"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := bench(t.Context(), []string{"-render", filepath.Join(dir, "report.json")}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/report.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("the page is not that of TestPage")
	}
	if err := bench(t.Context(), []string{"-render", dir}); err == nil {
		t.Error("a directory was rendered")
	}
}

func TestNotes(t *testing.T) {
	if _, err := readNotes("## cpu-0-8k, no-such-target\n"); err == nil {
		t.Error("a note about nothing would be lost")
	}
	all, err := readNotes("preface\n## p50,p99\none\n\ntwo\n## start\nthree")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"p50": "one\n\ntwo", "p99": "one\n\ntwo", "start": "three", "fairness": ""} {
		if got := all.of(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestDigits(t *testing.T) {
	for want, x := range map[string]float64{
		"0": 0, "0.35": 0.35, "0.0645": 0.06451, "0.000446": 0.000446, "0.00001": 0.00001, "12.3": 12.345, "123": 123.4, "125000": 124999.6, "99.9": 99.94, "4": 4,
	} {
		if got := digits(x); got != want {
			t.Errorf("%v: got %q, want %q", x, got, want)
		}
	}
	for want, n := range map[string]int64{"512 B": 512, "1.5 KiB": 1536, "3 GiB": 3 << 30} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestKeepAndPut(t *testing.T) {
	old := testReport(t)
	r := &report{Date: old.Date.AddDate(0, 0, 1), Commit: "new", Versions: map[string]string{}, Lacks: map[string]string{}}
	old.Problems = append(old.Problems, problem{"idle", "a leak"})
	r.keep(old, func(name string) bool { return name == "idle" })
	if len(r.Problems) != 1 || r.Problems[0].About != "get-0-closed" {
		t.Errorf("problems: %v", r.Problems)
	}
	r.put(measured{Name: "get-0-1k"})
	r.put(measured{Name: "get-0-closed", Title: "anew"})
	r.add(figure{Name: "idle"})
	var names []string
	for _, m := range r.Scenarios {
		names = append(names, m.Name+" "+m.Commit)
	}
	if got, want := strings.Join(names, ", "), "get-0-1k new, get-0-8k v1.2.3-4-gabcdef0, get-0-closed new, tunnel-bulk v1.2.3-4-gabcdef0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(r.Figures) != len(old.Figures) || r.figure("idle").Commit != "new" || r.figure("handshakes").Commit != "v1.2.2" {
		t.Errorf("figures: %+v", r.Figures)
	}
}
