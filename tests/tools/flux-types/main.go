// flux-types reads manifests from standard input and takes each of Flux's for what Flux's own types say it is: a field
// that they do not have, or of another type, is an error. Flux's definitions are no part of a Go module, its types are.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	helm "github.com/fluxcd/helm-controller/api/v2"
	kustomize "github.com/fluxcd/kustomize-controller/api/v1"
	source "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	documents := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = check(text)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func check(text []byte) error {
	var object metav1.PartialObjectMetadata
	if err := strict.Unmarshal(text, &object); err != nil {
		return err
	}
	var into any
	switch kind := object.APIVersion + " " + object.Kind; kind {
	case source.GroupVersion.String() + " OCIRepository":
		into = &source.OCIRepository{}
	case source.GroupVersion.String() + " GitRepository":
		into = &source.GitRepository{}
	case helm.GroupVersion.String() + " HelmRelease":
		into = &helm.HelmRelease{}
	case kustomize.GroupVersion.String() + " Kustomization":
		into = &kustomize.Kustomization{}
	case "v1 Namespace":
		return nil
	default:
		return fmt.Errorf("%s is none of Flux's kinds", kind)
	}
	if err := strict.UnmarshalStrict(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", object.Kind, object.Name, err)
	}
	fmt.Println(object.Kind, object.Name)
	return nil
}
