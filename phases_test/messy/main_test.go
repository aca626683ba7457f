// Package messy_test takes legacy databases that are not what they should be
// (fixtures/messy) through all phases, or to the one that refuses them, and asks after
// each phase who reads what.
package messy_test
