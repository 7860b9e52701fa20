//go:build tools

// Package node pins what a real node needs beside Kubernetes: Helm is built from this module as it is.
package node

import _ "helm.sh/helm/v4/cmd/helm"
