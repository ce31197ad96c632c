//go:build cgo && cgoleak

package main

const mallocBuilt = true
