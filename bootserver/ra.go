package bootserver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// Times of router advertisements. A link-local address is usable about 1 s after
// its interface came up (duplicate address detection, RFC 4862), and comes and
// goes with it, so listening is tried again.
const (
	raInterval = 3 * time.Second // RFC 4861, section 6.2.1: MinRtrAdvInterval >= 3 s
	raRetryMin = 250 * time.Millisecond
	raRetryMax = 4 * time.Second
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// advertisement says "there is no router and nothing to configure": lifetime 0,
// neither managed nor other configuration, no prefix. iPXE waits for any router
// advertisement before it goes on with IPv4.
func advertisement() *ndp.RouterAdvertisement {
	return &ndp.RouterAdvertisement{CurrentHopLimit: 64}
}

// advertise answers router solicitations on the admin interface until ctx ends.
// A host without IPv6 works without: machines only boot slower.
func (s *Server) advertise(ctx context.Context) error {
	retry := raRetryMin
	said := false
	for ctx.Err() == nil {
		began := time.Now()
		err := s.advertiseOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > time.Minute {
			retry, said = raRetryMin, false
		}
		if !said && retry > 2*time.Second {
			said = true
			s.log().Warn("no IPv6 router advertisements: iPXE waits about 15 s longer in each boot", "interface", s.Interface, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, raRetryMax)
	}
	return nil
}

func (s *Server) advertiseOnce(ctx context.Context) error {
	ifi, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return err
	}
	// By its number: package net remembers for a minute which number a name had.
	ifi.Name = strconv.Itoa(ifi.Index)
	conn, addr, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-ctx.Done()
		_ = conn.Close() // wakes the reader
	}()
	defer func() { cancel(); <-closed }()

	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := conn.SetICMPFilter(&filter); err != nil {
		return err
	}
	if err := conn.JoinGroup(allRouters); err != nil {
		return err
	}
	s.log().Info("IPv6 router advertisements", "interface", s.Interface, "address", addr.String())
	for {
		if err := conn.SetReadDeadline(time.Now().Add(raInterval)); err != nil {
			return err
		}
		_, _, from, err := conn.ReadFrom()
		to := allNodes
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			// No one asked for a while: machines that do not ask hear it too.
		case err != nil:
			return err
		case from.IsLinkLocalUnicast():
			to = from
		}
		if err := conn.WriteTo(advertisement(), nil, to); err != nil {
			// A machine that asked and is gone does not answer neighbour
			// discovery; a link that is down fails here too and comes back.
			s.log().Debug("send router advertisement", "to", to.String(), "err", err)
			if to == allNodes {
				return err
			}
		}
	}
}
