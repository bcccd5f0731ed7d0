package ztunnelcmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/program/programtest"
)

func TestFlagsThatAreMissingAreNamed(t *testing.T) {
	err := programtest.Execute(t, Command(), "--config", "x")
	for _, want := range []string{"flag --node: is required", "flag --identity: is required: where certificates come from: self:DIR"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v: there is a --config", err)
	}
}

func TestZtunnelRunsUntilItIsToldToEnd(t *testing.T) {
	log, args := programtest.Quiet(t)
	c := Command()
	c.SetArgs(append(args, "--node", "n1"))
	if err := c.ExecuteContext(programtest.UntilLogged(t, log, `"ready"`)); err != nil {
		t.Fatal(err)
	}
	programtest.WantLines(t, log, `"ready"`, `"draining"`, `"ended"`)
}

const meshMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomain: mesh.example.com
`

func TestAChangeThatNeedsARestartIsSaidOnce(t *testing.T) {
	log, args := programtest.Quiet(t)
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(args[1], "mesh.yaml"), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	write(meshMap)
	ready := programtest.UntilLogged(t, log, `"ready"`)
	go func() {
		<-ready.Done()
		write(strings.ReplaceAll(meshMap, "mesh.example.com", "other.example.com"))
	}()
	c := Command()
	c.SetArgs(append(args, "--node", "n1"))
	if err := c.ExecuteContext(programtest.UntilLogged(t, log, "restart to have it in force")); err != nil {
		t.Fatal(err)
	}
	programtest.WantLines(t, log, `"ready"`, `"field":"trustDomain","value":"other.example.com","in force":"mesh.example.com"`)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "restart to have it in force"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
}

func TestMeshConfigMustBeThere(t *testing.T) {
	_, args := programtest.Quiet(t)
	c := Command()
	c.SilenceErrors = true
	c.SetArgs(append(args, "--node", "n1", "--mesh-config", "/nowhere/mesh.yaml"))
	if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/mesh.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestEveryVariableIsInTheHelp(t *testing.T) { programtest.WantHelp(t, Command()) }
