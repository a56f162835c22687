// Opens and signs notes with Go's own implementation, so that ours is held against it.
//
//	gonote open VKEY < note   writes the text and fails unless the key has signed it
//	gonote sign SKEY < text   writes the note
//	gonote generate NAME      writes a signer key and its verifier key, a line each
package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"

	"golang.org/x/mod/sumdb/note"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: gonote open VKEY | sign SKEY | generate NAME")
	}
	if os.Args[1] == "generate" {
		skey, vkey, err := note.GenerateKey(rand.Reader, os.Args[2])
		check(err)
		fmt.Printf("%s\n%s\n", skey, vkey)
		return
	}
	input, err := io.ReadAll(os.Stdin)
	check(err)
	switch os.Args[1] {
	case "open":
		verifier, err := note.NewVerifier(os.Args[2])
		check(err)
		opened, err := note.Open(input, note.VerifierList(verifier))
		check(err)
		fmt.Print(opened.Text)
	case "sign":
		signer, err := note.NewSigner(os.Args[2])
		check(err)
		signed, err := note.Sign(&note.Note{Text: string(input)}, signer)
		check(err)
		fmt.Print(string(signed))
	default:
		log.Fatalf("unknown command %q", os.Args[1])
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
