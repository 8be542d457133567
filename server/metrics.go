package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox"
)

// collectTimeout bounds what one look at the metrics may cost the host.
const collectTimeout = 2 * time.Second

// metrics counts requests. The labels are routes, not paths, so that their number is
// bounded.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(s *Server, registry *prometheus.Registry) *metrics {
	m := &metrics{
		registry: registry,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cove_http_requests_total", Help: "Requests that have ended.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cove_http_request_seconds", Help: "Time that requests took, streams included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"route", "method"}),
	}
	registry.MustRegister(
		m.requests, m.seconds,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cove_http_requests_in_progress", Help: "Requests in progress, streams included.",
		}, func() float64 { return float64(s.active.count() + s.doored.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cove_build_info", Help: "Always 1; its label is the version.",
			ConstLabels: prometheus.Labels{"version": cove.Version},
		}, func() float64 { return 1 }),
		&sandboxCollector{host: s.host, desc: prometheus.NewDesc("cove_sandboxes", "Sandboxes that there are.", []string{"runtime", "state"}, nil)},
	)
	return m
}

func (m *metrics) observe(route, method string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	method = knownMethod(method)
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route, method).Observe(took.Seconds())
}

// knownMethod keeps a caller from making up labels.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// sandboxCollector counts sandboxes when it is asked.
type sandboxCollector struct {
	host *sandbox.Host
	desc *prometheus.Desc
}

// Describe is part of prometheus.Collector.
func (c *sandboxCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

// Collect is part of prometheus.Collector.
func (c *sandboxCollector) Collect(samples chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	list, err := c.host.List(ctx, sandbox.Filter{})
	if err != nil {
		samples <- prometheus.NewInvalidMetric(c.desc, err)
		return
	}
	type labels struct {
		runtime string
		state   cove.State
	}
	counts := map[labels]float64{}
	for _, one := range list {
		counts[labels{one.Runtime, one.State}]++
	}
	for l, n := range counts {
		samples <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, n, l.runtime, string(l.state))
	}
}

func (s *Server) registerMetrics() {
	handler := promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, DisableCompression: true,
	})
	op := operation("metrics", http.MethodGet, "/metrics", tagDaemon, "Metrics", "In the format of Prometheus.")
	op = replies(op, http.StatusOK, "Metrics.", content("text/plain", text("metrics")))
	register(s, op, func(_ context.Context, in *exchangeInput) (*huma.StreamResponse, error) {
		return raw(func() { handler.ServeHTTP(in.w, in.r) })
	})
}

// exchangeInput is the input of an operation that takes nothing and writes raw bytes.
type exchangeInput struct{ exchange }
