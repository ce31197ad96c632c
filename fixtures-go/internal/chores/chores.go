// Package chores is the garbage of an ordinary request.
package chores

// Do makes 20 KB of garbage, as parsing, logging and rendering would. At 300 requests a second the GC then runs more
// than once a second. The result is for the answer, so that nothing is optimised away.
func Do() (done int) {
	for i := 0; i < 20; i++ {
		done += copy(make([]byte, 1000+i), "chore")
	}
	return done
}
