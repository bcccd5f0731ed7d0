// Command protogen makes Go messages of .proto files, by protoc-gen-go but
// without protoc, which is not a Go module:
//
//	protogen DIR...
//
// The messages of DIR/x.proto go to DIR/x.pb.go. Imports are of the same
// directory or of google/protobuf.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("protogen: ")
	for _, dir := range os.Args[1:] {
		if err := generate(dir); err != nil {
			log.Fatalf("%s: %v", dir, err)
		}
	}
}

func generate(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.proto"))
	if err != nil {
		return err
	}
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	files, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		return err
	}
	answer, err := ask(request(files, names))
	if err != nil {
		return err
	}
	for _, f := range answer.File {
		if err := os.WriteFile(filepath.Join(dir, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// request is what protoc would ask: every file after those that it imports.
func request(files linker.Files, names []string) *pluginpb.CodeGeneratorRequest {
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		req.ProtoFile = append(req.ProtoFile, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, f := range files {
		add(f)
	}
	registered(req.ProtoFile)
	return req
}

// registered gives our files the names that they are registered by: one of
// another module may be called the same.
func registered(files []*descriptorpb.FileDescriptorProto) {
	for _, f := range files {
		if strings.HasPrefix(f.GetPackage(), "google.") {
			continue
		}
		for i, d := range f.Dependency {
			if !strings.Contains(d, "/") {
				f.Dependency[i] = "waystone/" + d
			}
		}
		f.Name = proto.String("waystone/" + f.GetName())
	}
}

// ask runs protoc-gen-go, a tool of this module.
func ask(req *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	for i, n := range req.FileToGenerate {
		req.FileToGenerate[i] = "waystone/" + n
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "tool", "protoc-gen-go")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("protoc-gen-go: %w", err)
	}
	var answer pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("protoc-gen-go: %s", answer.GetError())
	}
	for _, f := range answer.File {
		f.Name = proto.String(strings.TrimPrefix(f.GetName(), "waystone/"))
	}
	return &answer, nil
}
