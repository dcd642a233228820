package builder

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/sandbox"
)

// Creates and recovery may ask for a template before its build can begin.
func TestExpectedTemplateIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := NewCatalogue(w.Builder, func() {})
		defer c.Close()
		if c.Building(recipe.Slug) {
			t.Error("it is being built before anybody said so")
		}
		c.Expect(recipe.Slug)
		if !c.Building(recipe.Slug) {
			t.Error("it is expected and will not come")
		}
		got := make(chan sandbox.Template)
		go func() {
			tmpl, err := c.Await(t.Context(), recipe.Slug, func(sandbox.BuildEvent) {})
			if err != nil {
				t.Error(err)
			}
			got <- tmpl
		}()
		synctest.Wait() // it waits
		c.Build(recipe)
		if tmpl := <-got; tmpl.Slug != recipe.Slug || tmpl.Image == "" {
			t.Errorf("got %+v", tmpl)
		}
		if _, err := c.Await(t.Context(), "other", nil); sandbox.AsError(err).Kind != sandbox.NotFound {
			t.Errorf("a template nobody builds: %v", err)
		}
	})
}

// Tenants choose sizes: what waits to be made, and what is kept, has bounds, and
// the template's own snapshot is never in their line.
func TestRemakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		tmpl := ensure(t, w, recipe)
		before := len(w.driver.Starts())
		c := NewCatalogue(w.Builder, func() {})
		ask := func(i int, broken sandbox.Ref) {
			res := recipe.Spec.Resources()
			res.Disk += int64(i) * sandbox.MiB
			c.Remake(tmpl, res, broken)
		}
		c.turn <- struct{}{} // somebody's snapshot takes long
		for i := range 3 * maxRemakes {
			ask(i+1, "")
			ask(i+1, "")
		}
		synctest.Wait()
		if n := len(w.driver.Starts()) - before; n != 0 {
			t.Errorf("%d starts while the turn is taken", n)
		}
		own, err := w.rows.Seed(t.Context(), "t", tmpl.Revision, w.driver.SnapshotKey(recipe.Spec.Resources()))
		if err != nil {
			t.Fatal(err)
		}
		ask(0, own.Ref)
		synctest.Wait()
		if again, err := w.rows.Seed(t.Context(), "t", tmpl.Revision, own.Key); err == nil && again.Ref == own.Ref {
			// The first making was a moment ago, so this one was told to wait.
			w.pass(calm)
			ask(0, own.Ref)
			synctest.Wait()
		}
		if again, err := w.rows.Seed(t.Context(), "t", tmpl.Revision, own.Key); err != nil || again.Ref == own.Ref {
			t.Errorf("the template's own snapshot waits in line: %v, %v", again.Ref, err)
		}
		<-c.turn
		synctest.Wait()
		if n := len(w.driver.Starts()) - before; n != 3*(maxRemakes+1) {
			t.Errorf("%d starts, want three for each of %d snapshots", n, maxRemakes+1)
		}
		for i := range 5 {
			w.pass(calm)
			ask(1000+i, "")
			synctest.Wait()
		}
		c.Close()
		ask(2000, "") // does nothing
		all, err := w.rows.Seeds(t.Context())
		if err != nil || len(all) != maxOtherSizes+1 {
			t.Errorf("%d snapshots are kept, want %d and the template's own", len(all), maxOtherSizes)
		}
		if _, err := w.rows.Seed(t.Context(), "t", tmpl.Revision, own.Key); err != nil {
			t.Errorf("the template's own: %v", err)
		}
	})
}

func TestCloseEndsWhatWaits(t *testing.T) {
	w := newWorld(t)
	tmpl := ensure(t, w, recipe)
	w.driver.Set(runtimetest.Knobs{Snapshot: func(ctx context.Context, _ sandbox.ID) error { <-ctx.Done(); return errors.New("cut") }})
	c := NewCatalogue(w.Builder, func() {})
	for i := range int64(3) {
		res := recipe.Spec.Resources()
		res.Disk *= 2 + i
		c.Remake(tmpl, res, "")
	}
	c.Close()
}
