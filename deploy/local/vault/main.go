// Command vault is HashiCorp Vault's own command line, built from the Go module
// so that tests run the real key service where no vault package exists.
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
