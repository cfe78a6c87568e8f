module tools

go 1.26.0

// Nothing is built of them: they hold the definitions of kinds that the chart may use.
require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.3
)
