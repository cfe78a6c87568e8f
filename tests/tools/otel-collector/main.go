// otel-collector is OpenTelemetry's collector with what docs/howto/alerting.md asks of it and no more: the receiver
// k8s_events, the processor filter and the exporter otlphttp. The collectors that people install hold the same parts
// among many others.
package main

import (
	"log"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/filterprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/k8seventsreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/receiver"
)

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otel-collector", Description: "for tests", Version: "0.111.0"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
				DefaultScheme:     "env",
			},
		},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}

func factories() (otelcol.Factories, error) {
	var (
		all otelcol.Factories
		err error
	)
	if all.Receivers, err = receiver.MakeFactoryMap(k8seventsreceiver.NewFactory()); err != nil {
		return otelcol.Factories{}, err
	}
	if all.Processors, err = processor.MakeFactoryMap(filterprocessor.NewFactory()); err != nil {
		return otelcol.Factories{}, err
	}
	if all.Exporters, err = exporter.MakeFactoryMap(otlphttpexporter.NewFactory()); err != nil {
		return otelcol.Factories{}, err
	}
	return all, nil
}
