//go:build linux

// Command agent is the first process of the virtual machine whose kernel the
// tests in this directory talk to. It is the machine's /init: it mounts what a
// shell needs, loads the modules of the image in the order of /modules/order and
// then runs the scripts that the tests send, one after another:
//
//	test                      virtio console port                     agent
//	{"script": "ip a", "seconds": 10} ─────────────────────────────>  sh -c
//	<───────────────────────────────────────  {"code": 0, "output": "..."}
//
// One line of JSON each way. A script that takes longer than it may is killed
// with its process group; what it put into the background of another session
// stays.
//
// Run with arguments it is what a kernel does not bring along: `agent hold PORT`
// holds UDP sockets open that hand ESP to the kernel (UDP_ENCAP, RFC 3948), as an
// IKE daemon would, and `agent echo PORT` sends back what arrives by UDP and TCP.
//
// Non-goals: being a good init. Orphans stay zombies for the minutes that the
// machine lives.
package main
