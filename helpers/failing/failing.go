// Package failing runs an assertion that is to fail, so that a test can show that it does.
package failing

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// Test runs f as a test of its own, for which t does not fail, and returns what it was failed with: nothing if it passed.
func Test(t testing.TB, f func(testing.TB)) (said []string) {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.said
}

// recorder is a test that only remembers what became of it.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Helper() {}

func (r *recorder) Error(args ...any) {
	r.said = append(r.said, strings.TrimSuffix(fmt.Sprintln(args...), "\n"))
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fail() { r.Error("failed") }

// FailNow follows what has been said.
func (r *recorder) FailNow() {
	if len(r.said) == 0 {
		r.Fail()
	}
	runtime.Goexit()
}
