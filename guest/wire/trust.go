package wire

// Where the agent keeps certificates inside, for everybody to read, once a NetworkSetup
// has brought some.
const (
	// TrustDir is the directory of the following: in /dev, since that is memory of the
	// sandbox's own on every runtime, which all may read and root may write, also where the
	// root filesystem is read-only.
	TrustDir = "/dev/cove"
	// TrustBundle are those of the sandbox's own distribution and those of NetworkSetup.CA.
	TrustBundle = TrustDir + "/bundle.pem"
	// TrustCA are those of NetworkSetup.CA alone.
	TrustCA = TrustDir + "/ca.pem"
)

// TrustVariables returns the variables by which programs find certificates, with the
// values that have them find the agent's.
func TrustVariables() map[string]string {
	return map[string]string{
		"SSL_CERT_FILE":       TrustBundle, // OpenSSL, Go, Ruby and many more
		"REQUESTS_CA_BUNDLE":  TrustBundle,
		"PIP_CERT":            TrustBundle,
		"GIT_SSL_CAINFO":      TrustBundle,
		"CURL_CA_BUNDLE":      TrustBundle,
		"AWS_CA_BUNDLE":       TrustBundle,
		"CARGO_HTTP_CAINFO":   TrustBundle,
		"npm_config_cafile":   TrustBundle, // wins over the file that a machine's npmrc names
		"NODE_EXTRA_CA_CERTS": TrustCA,     // beside its own
		"DENO_CERT":           TrustCA,     // likewise
	}
}
