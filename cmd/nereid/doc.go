// Command nereid is the operator's program: it shows and changes what a head
// node knows, and builds and imports platform images.
//
// Commands are NOUN VERB, one file per noun. Everything goes through api.Client,
// over the head node's Unix socket or over HTTPS with a token and a pinned CA.
// Tables are for people and may change; "-o json" and "-o yaml" print the API's
// own types and do not. Text that came from a machine (hostnames, disk models,
// reasons) is stripped of control characters before a terminal sees it.
//
// Exit codes:
//
//	0    done
//	1    failed
//	2    the command line is wrong
//	3    there is no such server, platform, token ...
//	4    refused: not allowed, or the present state does not permit it
//	5    the head node does not answer
//	6    waited as long as --timeout says, and it did not happen
//	130  interrupted
package main
