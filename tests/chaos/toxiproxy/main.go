// Command toxiproxy is Shopify's toxiproxy-server as it is, pinned by go.mod and go.sum.
package main

import (
	"flag"
	"net"
	"os"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8474", "host:port of the control API")
	flag.Parse()
	log := zerolog.New(os.Stderr).Level(zerolog.WarnLevel).With().Timestamp().Logger()
	host, port, err := net.SplitHostPort(*listen)
	if err != nil {
		log.Fatal().Err(err).Msg("not an address")
	}
	metrics := toxiproxy.NewMetricsContainer(prometheus.NewRegistry())
	toxiproxy.NewServer(metrics, log).Listen(host, port)
}
