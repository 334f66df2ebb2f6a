// Package control is the local control socket: how `icvpn status`, peers, ping
// and down talk to the running process.
//
// The socket is a Unix stream socket of mode 0600. A connection carries one
// request and its answer, each a line of JSON (docs/cli.md has the
// fields):
//
//	client                                             server
//	{"version":1,"method":"status"}\n            ->
//	                                             <-    {"version":1,"status":{...}}\n
//
//	{"version":1,"method":"ping","target":"app-1","count":2}\n
//	                                             <-    {"version":1,"ping":{"seq":1,...}}\n
//	                                             <-    {"version":1,"ping":{"seq":2,...}}\n
//	                                             <-    {"version":1,"done":true}\n
//
//	anything that cannot be done                 <-    {"version":1,"error":{"code":"...","message":"..."}}\n
//
// Guarantees. Only root and the user that runs the server are answered, by the
// credentials the kernel keeps for the other end, whatever the mode of the
// file. A request has at most 4096 bytes and 5 s to arrive; 32 connections are
// served at a time. A client that goes away ends what it asked for. Serve
// returns only after every goroutine that it started has ended. A socket file
// that a killed process left is replaced, the one of a live process is not.
//
// The JSON of Status, PeerList, JoinLog and PingReply is an interface for
// scripts: within version 1 fields are added, never renamed, retyped or removed.
// A reader ignores fields it does not know.
//
// Non-goals: remote access, more than one request per connection, secrets. No
// answer holds a key or a token.
package control
