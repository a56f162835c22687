// Judges our logs by implementations that are not ours: Go's own signed notes, the cosignatures of
// transparency-dev/formats, and the checker of Tessera, which reads every tile and every entry of a log.
//
//	judge open VKEY < note                  writes the text; fails unless the key has signed it
//	judge sign SKEY < text                  writes the note
//	judge generate NAME                     writes a signer key and its verifier key, a line each
//	judge cosigned VKEY WITNESS < note      writes when the witness cosigned, in seconds; fails unless both have signed
//	judge cosign SKEY VKEY < note           writes the note with the cosignature of that key added
//	judge fsck VKEY FOLDER                  fails unless every tile and entry of the log is under its signed root
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"

	cosignature "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	log.SetFlags(0)
	arguments := append(os.Args[1:], "", "")
	switch command, first, second := arguments[0], arguments[1], arguments[2]; command {
	case "open":
		fmt.Print(opened(verifier(first)).Text)
	case "sign":
		signer, err := note.NewSigner(first)
		check(err)
		write(&note.Note{Text: string(input())}, signer)
	case "generate":
		skey, vkey, err := note.GenerateKey(rand.Reader, first)
		check(err)
		fmt.Printf("%s\n%s\n", skey, vkey)
	case "cosigned":
		cosigned(first, second)
	case "cosign":
		signer, err := cosignature.NewSignerForCosignatureV1(first)
		check(err)
		write(opened(verifier(second)), signer)
	case "fsck":
		checkTree(verifier(first), second)
	default:
		log.Fatalf("unknown command %q", command)
	}
}

func cosigned(vkey, witness string) {
	cosigner, err := cosignature.NewVerifierForCosignatureV1(witness)
	check(err)
	found := opened(verifier(vkey), cosigner)
	if len(found.Sigs) != 2 {
		log.Fatalf("%d of the 2 keys have signed", len(found.Sigs))
	}
	for _, signature := range found.Sigs {
		if signature.Hash == cosigner.KeyHash() {
			at, err := cosignature.CoSigV1Timestamp(signature)
			check(err)
			fmt.Println(at.Unix())
		}
	}
}

// A worker that finds something wrong ends, and nobody takes what is still to be checked from a channel of as many places
// as there are workers: enough of them that all of a damaged log's few tiles find one.
func checkTree(key note.Verifier, folder string) {
	log := &client.FileFetcher{Root: folder}
	check(fsck.New(key.Name(), key, log, leafHashes, fsck.Opts{N: 32}).Check(context.Background()))
}

func leafHashes(bundle []byte) ([][]byte, error) {
	entries := &api.EntryBundle{}
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, 0, len(entries.Entries))
	for _, entry := range entries.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}

func opened(keys ...note.Verifier) *note.Note {
	found, err := note.Open(input(), note.VerifierList(keys...))
	check(err)
	return found
}

func verifier(vkey string) note.Verifier {
	key, err := note.NewVerifier(vkey)
	check(err)
	return key
}

func write(given *note.Note, signer note.Signer) {
	signed, err := note.Sign(given, signer)
	check(err)
	fmt.Print(string(signed))
}

func input() []byte {
	given, err := io.ReadAll(os.Stdin)
	check(err)
	return given
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
