package main

import (
	"os"
	"runtime"
	"strings"
)

// A machine is where a run was.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Load   string `json:"load"` // averages when the run began: what else was going on
}

func thisMachine() machine {
	return machine{
		Cores: runtime.NumCPU(), Go: runtime.Version(),
		CPU: after(contents("/proc/cpuinfo"), "model name"), Memory: after(contents("/proc/meminfo"), "MemTotal"),
		Kernel: strings.TrimSpace(contents("/proc/sys/kernel/osrelease")),
		Load:   strings.Join(firstFields(contents("/proc/loadavg"), 3), " "),
	}
}

// contents returns a file's, or nothing.
func contents(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(text)
}

func firstFields(text string, n int) []string {
	f := strings.Fields(text)
	return f[:min(n, len(f))]
}

// after returns what follows a name and a colon in /proc's form.
func after(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
