//go:build !go1.24

package main

import "net/http"

// speakHTTP2 leaves a server as it is: over plain connections it speaks HTTP/1.1 alone.
func speakHTTP2(*http.Server) {}
