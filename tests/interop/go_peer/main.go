// A node of go-libp2p and its Kademlia DHT, with the protocol prefix that Spegel uses.
//
// It reads one command a line from standard input and writes one JSON answer a line to standard
// output. The tests use it as the peer that this project did not write.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	mh "github.com/multiformats/go-multihash"
)

const echo = "/test/echo/1.0.0"

type answer map[string]any

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves at an address, in the private network of the swarm.key file if one is given.
func run(address string, swarmKey []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	options := []libp2p.Option{
		libp2p.ListenAddrStrings(address),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
	}
	for _, file := range swarmKey {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		key, err := pnet.DecodeV1PSK(opened)
		if err != nil {
			return err
		}
		options = append(options, libp2p.PrivateNetwork(key))
	}
	node, err := libp2p.New(options...)
	if err != nil {
		return err
	}
	defer node.Close()
	node.SetStreamHandler(echo, func(stream network.Stream) {
		defer stream.Close()
		_, _ = io.Copy(stream, stream)
	})
	table, err := dht.New(ctx, node, dht.Mode(dht.ModeServer), dht.ProtocolPrefix("/spegel"),
		dht.DisableValues(), dht.MaxRecordAge(time.Minute))
	if err != nil {
		return err
	}
	defer table.Close()
	write(answer{"id": node.ID().String(), "addresses": node.Addrs()})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		found, err := handle(ctx, node, table, words)
		if err != nil {
			found = answer{"error": err.Error()}
		}
		write(found)
	}
	return lines.Err()
}

func handle(ctx context.Context, node host.Host, table *dht.IpfsDHT, words []string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch words[0] {
	case "connect": // MULTIADDR/p2p/ID
		info, err := peer.AddrInfoFromString(words[1])
		if err != nil {
			return nil, err
		}
		return answer{}, node.Connect(ctx, *info)
	case "peers":
		return answer{"peers": node.Network().Peers(), "table": table.RoutingTable().ListPeers()}, nil
	case "protocols": // ID
		id, err := peer.Decode(words[1])
		if err != nil {
			return nil, err
		}
		known, err := node.Peerstore().GetProtocols(id)
		return answer{"protocols": known}, err
	case "ping": // ID
		id, err := peer.Decode(words[1])
		if err != nil {
			return nil, err
		}
		result := <-ping.Ping(ctx, node, id)
		return answer{"seconds": result.RTT.Seconds()}, result.Error
	case "provide": // KEY
		key, err := key(words[1])
		if err != nil {
			return nil, err
		}
		return answer{}, table.Provide(ctx, key, true)
	case "find": // KEY
		key, err := key(words[1])
		if err != nil {
			return nil, err
		}
		found := []string{}
		for info := range table.FindProvidersAsync(ctx, key, 3) {
			found = append(found, info.ID.String())
		}
		return answer{"providers": found}, nil
	}
	return nil, fmt.Errorf("unknown command %q", words[0])
}

// key returns the identifier of a name in the DHT: the SHA-256 of the name, in a raw CID.
func key(name string) (cid.Cid, error) {
	hash, err := mh.Sum([]byte(name), mh.SHA2_256, -1)
	if err != nil {
		return cid.Undef, err
	}
	return cid.NewCidV1(cid.Raw, hash), nil
}

func write(found answer) {
	line, err := json.Marshal(found)
	if err != nil {
		line = []byte(fmt.Sprintf(`{"error": %q}`, err.Error()))
	}
	fmt.Println(string(line))
}
