package cli

import (
	"reflect"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func TestDaivsVariablesAreUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want DaivOptions
		bad  bool
	}{
		"without a key there is nothing": {map[string]string{"PORT": "x"}, DaivOptions{}, false},
		"a key alone":                    {map[string]string{"API_KEY": "k"}, DaivOptions{Key: "k", Listen: "127.0.0.1:8000"}, false},
		"all of them": {
			map[string]string{"API_KEY": "k", "HOST": "0.0.0.0", "PORT": "8888", "RUNTIME": "runsc", "MEMORY": "2g", "MAX_EXECUTION_TIME": "60", "NETWORK": "pip, npm", "KEEP_TEMPLATE": "True"},
			DaivOptions{
				Key: "k", Listen: "0.0.0.0:8888", Runtime: "gvisor", Limits: cove.Limits{Memory: 2 * cove.GiB}, MaxTime: time.Minute,
				Network: cove.Network{Mode: cove.NetworkAllow, Allow: []string{"pip", "npm"}}, Unused: []string{"DAIV_SANDBOX_KEEP_TEMPLATE"},
			}, false,
		},
		"an open network":      {map[string]string{"API_KEY": "k", "NETWORK": "open", "RUNTIME": "runc"}, DaivOptions{Key: "k", Listen: "127.0.0.1:8000", Runtime: "runc", Network: cove.Network{Mode: cove.NetworkOpen}}, false},
		"a port that is none":  {map[string]string{"API_KEY": "k", "PORT": "70000"}, DaivOptions{}, true},
		"memory that is none":  {map[string]string{"API_KEY": "k", "MEMORY": "much"}, DaivOptions{}, true},
		"a time that is none":  {map[string]string{"API_KEY": "k", "MAX_EXECUTION_TIME": "10m"}, DaivOptions{}, true},
		"a time without a end": {map[string]string{"API_KEY": "k", "MAX_EXECUTION_TIME": "0"}, DaivOptions{}, true},
	} {
		got, err := daivOptions(func(name string) string { return test.env[name[len("DAIV_SANDBOX_"):]] })
		if (err != nil) != test.bad || !test.bad && !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, test.want)
		}
	}
}
