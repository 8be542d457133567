package secret

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress/domain"
)

// Lease is a secret that one sandbox uses: what its programs see of it, and for one that
// came with the sandbox also the value.
type Lease struct {
	Name        string
	Owner       string `json:",omitempty"` // of the vault's secret; "": everybody's
	Placeholder string
	Value       string `json:",omitempty"` // "": that of the vault's secret
}

// leasePrefix begins the names of records that hold the leases of a sandbox. No secret's
// name begins so.
const leasePrefix = "sandbox/"

// Check returns what is wrong with a secret that comes with a sandbox. The error is
// cove.Invalid, and has no part of the value.
func Check(name string, in cove.SecretInput) (cove.Secret, error) {
	s, err := check(name, in)
	return s, cove.Wrap(err, "secret", id(name))
}

// Within returns nil for a use of a secret that goes to no host and stands in no part of a
// request that the secret is not bound to; else an error that is cove.Forbidden.
func Within(use cove.SecretUse, bound cove.Secret) error {
	var problems cove.Problems
	for _, text := range use.Hosts {
		host, flaw := domain.ParseHost(text)
		if flaw != nil {
			problems.Add(fmt.Sprintf("host %.300q %s", text, flaw.Text))
		} else if !goesTo(bound, host) {
			problems.Add(fmt.Sprintf("it is not bound to %s", host))
		}
	}
	for _, place := range use.In {
		if !slices.Contains(bound.In, place) {
			problems.Add(fmt.Sprintf("it is not to stand in the %.32q of a request", string(place)))
		}
	}
	return problems.Err(cove.Forbidden, "", "it is bound to "+strings.Join(bound.Hosts, ", ")+"; whoever set it can bind it to more (cove secret set)")
}

// goesTo reports whether a secret may go to a host.
func goesTo(bound cove.Secret, to domain.Host) bool {
	return slices.ContainsFunc(bound.Hosts, func(text string) bool {
		host, flaw := domain.ParseHost(text)
		return flaw == nil && host.Covers(to)
	})
}

// Lend writes down what a sandbox uses, in place of what it used before.
func (v *Vault) Lend(ctx context.Context, sandbox string, leases []Lease) error {
	return cove.Wrap(v.lend(ctx, leasePrefix+sandbox, leases), "lend secrets", sandbox)
}

func (v *Vault) lend(ctx context.Context, name string, leases []Lease) error {
	text, err := json.Marshal(leases)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	record := cove.Secret{Name: name, Hosts: []string{}, In: []cove.SecretPlace{}, CreatedAt: now, UpdatedAt: now}
	return v.put(ctx, record, string(text), kept)
}

// Lent returns what a sandbox uses; nothing where nothing was lent.
func (v *Vault) Lent(ctx context.Context, sandbox string) ([]Lease, error) {
	text, _, err := v.value(ctx, "", leasePrefix+sandbox)
	if cove.CodeOf(err) == cove.NotFound {
		return nil, nil
	}
	var leases []Lease
	if err == nil {
		err = json.Unmarshal([]byte(text), &leases)
	}
	return leases, cove.Wrap(err, "read lent secrets", sandbox)
}

// Return forgets what a sandbox used. It succeeds where nothing was lent.
func (v *Vault) Return(ctx context.Context, sandbox string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return cove.Wrap(v.store.DeleteSecret(ctx, "", leasePrefix+sandbox), "return secrets", sandbox)
}

// Borrowers returns the sandboxes to which something is lent.
func (v *Vault) Borrowers(ctx context.Context) ([]string, error) {
	kept, err := v.store.Secrets(ctx)
	if err != nil {
		return nil, cove.Wrap(err, "list lent secrets", "")
	}
	var sandboxes []string
	for _, k := range kept {
		if sandbox, ok := strings.CutPrefix(k.Name, leasePrefix); ok {
			sandboxes = append(sandboxes, sandbox)
		}
	}
	return sandboxes, nil
}
