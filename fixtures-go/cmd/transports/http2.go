//go:build go1.24

package main

import "net/http"

// speakHTTP2 lets a server speak HTTP/2 too: with prior knowledge over plain connections, and by ALPN over TLS.
func speakHTTP2(s *http.Server) {
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
}
