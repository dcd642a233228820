// Command pack compresses one executable into the folder that package embedded
// embeds: pack -version V -to FOLDER EXECUTABLE. What is there already is left
// alone, so that nothing is built anew for it.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"silica.dev/silica/cmd/silica/embedded"
)

func main() {
	version := flag.String("version", "", "what the executable calls its version")
	to := flag.String("to", "", "folder to write NAME.zst and NAME.json into")
	flag.Parse()
	if flag.NArg() != 1 || *to == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := pack(flag.Arg(0), *version, *to); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(executable, version, dir string) error {
	in, err := os.Open(executable)
	if err != nil {
		return err
	}
	defer in.Close()
	name := filepath.Base(executable)
	sum := sha256.New()
	size, err := io.Copy(sum, in)
	if err != nil {
		return err
	}
	facts, err := json.Marshal(embedded.Artifact{
		Name: name, Version: version, Digest: hex.EncodeToString(sum.Sum(nil)), Size: size,
	})
	if err != nil {
		return err
	}
	facts = append(facts, '\n')
	described := filepath.Join(dir, name+".json")
	if old, err := os.ReadFile(described); err == nil && bytes.Equal(old, facts) {
		return nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(dir, name+".zst"))
	if err != nil {
		return err
	}
	defer out.Close()
	enc, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	if _, err := io.Copy(enc, in); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.WriteFile(described, facts, 0o644) // last: it vouches for the other
}
