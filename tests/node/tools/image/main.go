// image REF OUT.tar PROGRAM: writes an image of nothing but one static program as an OCI archive that containerd
// imports. What comes out depends on what goes in and on nothing else.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

type file struct {
	name string
	data []byte
	mode int64
}

func main() {
	ref, out, program := os.Args[1], os.Args[2], os.Args[3]
	name := filepath.Base(program)
	data, err := os.ReadFile(program)
	check(err)
	layer := archive(file{name, data, 0o755})
	config := encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + name}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": describe("config.v1+json", config), "layers": []any{describe("layer.v1.tar", layer)},
	})
	entry := describe("manifest.v1+json", manifest)
	// containerd takes the first for the name, everybody else the second.
	entry["annotations"] = map[string]any{
		"io.containerd.image.name":          ref,
		"org.opencontainers.image.ref.name": ref[strings.LastIndex(ref, ":")+1:],
	}
	entry["platform"] = map[string]any{"architecture": runtime.GOARCH, "os": "linux"}
	index := encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{entry},
	})
	files := []file{{"index.json", index, 0o644}, {"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644}}
	for _, blob := range [][]byte{layer, config, manifest} {
		files = append(files, file{"blobs/sha256/" + strings.TrimPrefix(digest(blob), "sha256:"), blob, 0o644})
	}
	check(os.WriteFile(out, archive(files...), 0o644))
}

func describe(kind string, blob []byte) map[string]any {
	return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": digest(blob), "size": len(blob)}
}

func digest(blob []byte) string {
	sum := sha256.Sum256(blob)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	check(err)
	return text
}

func archive(files ...file) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		check(w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatUSTAR}))
		_, err := w.Write(f.data)
		check(err)
	}
	check(w.Close())
	return b.Bytes()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
