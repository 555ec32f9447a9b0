// A stranger to Patronage: Go's checksum-database libraries read what we publish, and write what we read.
//
//	stranger verify VKEY CHECKPOINT FOLDER < proofs.json   our checkpoint, tiles and proofs, checked by Go
//	stranger make SIZE                                     a checkpoint and proofs by Go, as JSON
package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type Inclusion struct {
	Index int64
	Entry []byte
	Proof tlog.RecordProof
}

type Consistency struct {
	Size  int64
	Root  tlog.Hash
	Proof tlog.TreeProof
}

type Document struct {
	Vkey        string
	Checkpoint  []byte
	Inclusion   []Inclusion
	Consistency []Consistency
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// tiles reads our folder; Go's paths have the tile height in them, C2SP's have not.
type tiles string

func (folder tiles) Height() int { return 8 }

func (folder tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range wanted {
		content, err := os.ReadFile(filepath.Join(string(folder), strings.Replace(tile.Path(), "tile/8/", "tile/", 1)))
		if err != nil {
			return nil, err
		}
		data = append(data, content)
	}
	return data, nil
}

func (folder tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func verify(vkey, checkpoint, folder string) {
	verifier, err := note.NewVerifier(vkey)
	must(err)
	message, err := os.ReadFile(checkpoint)
	must(err)
	opened, err := note.Open(message, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)

	var document Document
	must(json.NewDecoder(os.Stdin).Decode(&document))
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles(folder))
	for _, claim := range document.Inclusion {
		leaf := tlog.RecordHash(claim.Entry)
		must(tlog.CheckRecord(claim.Proof, size, root, claim.Index, leaf))
		own, err := tlog.ProveRecord(size, claim.Index, reader)
		must(err)
		must(tlog.CheckRecord(own, size, root, claim.Index, leaf))
	}
	for _, claim := range document.Consistency {
		must(tlog.CheckTree(claim.Proof, size, root, claim.Size, claim.Root))
	}
	fmt.Printf("%d signature, %d inclusion proofs, %d consistency proofs\n",
		len(opened.Sigs), len(document.Inclusion), len(document.Consistency))
}

func produce(size int64) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "stranger.example/log")
	must(err)
	signer, err := note.NewSigner(skey)
	must(err)
	var hashes []tlog.Hash
	stored := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var found []tlog.Hash
		for _, index := range indexes {
			found = append(found, hashes[index])
		}
		return found, nil
	})
	document := Document{Vkey: vkey}
	for n := int64(0); n < size; n++ {
		new, err := tlog.StoredHashes(n, []byte(strconv.FormatInt(n, 10)), stored)
		must(err)
		hashes = append(hashes, new...)
	}
	root, err := tlog.TreeHash(size, stored)
	must(err)
	for n := int64(0); n < size; n++ {
		proof, err := tlog.ProveRecord(size, n, stored)
		must(err)
		document.Inclusion = append(document.Inclusion, Inclusion{n, []byte(strconv.FormatInt(n, 10)), proof})
		old, err := tlog.TreeHash(n+1, stored)
		must(err)
		consistency, err := tlog.ProveTree(size, n+1, stored)
		must(err)
		document.Consistency = append(document.Consistency, Consistency{n + 1, old, consistency})
	}
	text := fmt.Sprintf("stranger.example/log\n%d\n%s\n", size, base64.StdEncoding.EncodeToString(root[:]))
	document.Checkpoint, err = note.Sign(&note.Note{Text: text}, signer)
	must(err)
	must(json.NewEncoder(os.Stdout).Encode(document))
}

func main() {
	switch {
	case len(os.Args) == 5 && os.Args[1] == "verify":
		verify(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 3 && os.Args[1] == "make":
		size, err := strconv.ParseInt(os.Args[2], 10, 64)
		must(err)
		produce(size)
	default:
		fmt.Fprintln(os.Stderr, "usage: stranger verify VKEY CHECKPOINT FOLDER | stranger make SIZE")
		os.Exit(2)
	}
}
