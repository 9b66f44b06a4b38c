// A file server and reverse proxy of Go's standard library, as plain as it can be, to stand beside:
// `proxy ADDRESS FOLDER PEER` serves what it has in FOLDER, by the sha256 in the path, and asks PEER for the rest.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	peer, err := url.Parse(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(peer)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	proxy.Transport = transport
	serve := func(answer http.ResponseWriter, request *http.Request) {
		_, name, _ := strings.Cut(request.URL.Path, "sha256:")
		file := filepath.Join(os.Args[2], name)
		if _, err := os.Stat(file); err != nil {
			proxy.ServeHTTP(answer, request)
			return
		}
		answer.Header().Set("Content-Type", "application/octet-stream")
		http.ServeFile(answer, request, file)
	}
	log.Fatal(http.ListenAndServe(os.Args[1], http.HandlerFunc(serve)))
}
