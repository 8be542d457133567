package intercept

import (
	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

type secretValue = egress.SecretValue

func withPlaces(s secretValue, places ...cove.SecretPlace) secretValue {
	s.In = places
	return s
}
