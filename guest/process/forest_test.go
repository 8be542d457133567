package process

import "testing"

func TestAnOrphanBelongsToACommandOnlyIfNoOtherCouldHaveStartedIt(t *testing.T) {
	const agent = 7
	orphan := record{identity: identity{pid: 20, started: 150}, parent: agent}
	for name, test := range map[string]struct {
		others func(f *forest)
		want   bool
	}{
		"the only command":    {func(*forest) {}, true},
		"another one running": {func(f *forest) { f.grow("b", 120).root(&child{pid: 11}) }, false},
		// Between fork and exec a child has the agent for a parent and no marker yet.
		"another one about to start":   {func(f *forest) { f.grow("b", 149) }, false},
		"another one started later":    {func(f *forest) { f.grow("b", 200).root(&child{pid: 11}) }, true},
		"another one that failed then": {func(f *forest) { b := f.grow("b", 149); f.ended(b); f.fell(b) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := &forest{adopting: agent, markers: map[string]*tree{}}
			a := f.grow("a", 100)
			a.root(&child{pid: 10})
			test.others(f)
			if got := f.owns(a, orphan); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
