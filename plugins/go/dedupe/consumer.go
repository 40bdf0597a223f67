// Lets each key through once within some time.
package main

import (
	"bytes"
	"encoding/json"
	"errors"

	"sluicegate.dev/sluice"
)

var seen = sluice.Named("seen")

type dedupe struct {
	Seconds int64 `json:"for-seconds"`
}

func init() { sluice.Export(&dedupe{3600}) }

func main() {}

func (d *dedupe) Init(config []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	return decoder.Decode(d)
}

func (d *dedupe) Wants(event *sluice.Event, wanted *sluice.Wanted) {
	if event.Key != nil {
		wanted.Key(seen, event.Key)
	}
}

func (d *dedupe) Process(event *sluice.Event, out *sluice.Outputs) error {
	if event.Key == nil {
		return errors.New("the event has no key")
	}
	if seen.Get(event.Key) != nil {
		return nil
	}
	seen.SetFor(event.Key, []byte("1"), d.Seconds*1000)
	return out.Put(&sluice.Output{Key: event.Key, Value: event.Value, Headers: event.Headers})
}
