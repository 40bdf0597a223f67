// Keeps the flights that left late, and says by how much, keyed by the airport they left from.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"

	"sluicegate.dev/sluice"
)

type lateFlights struct {
	Threshold int64 `json:"threshold-minutes"`
}

var (
	names    = []string{"delay", "origin", "destination"}
	found    = make([][]byte, len(names))
	late     []byte
	noObject = errors.New("it is no JSON object")
	noFlight = errors.New("no flight: it has no delay, origin and destination")
)

func init() { sluice.Export(&lateFlights{30}) }

func main() {}

func (c *lateFlights) Init(config []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	return decoder.Decode(c)
}

func (c *lateFlights) Process(event *sluice.Event, out *sluice.Outputs) error {
	if !sluice.JSONFields(event.Value, names, found) {
		return noObject
	}
	delay, hasDelay := sluice.JSONInt(found[0])
	origin, hasOrigin := sluice.JSONText(found[1])
	destination, hasDestination := sluice.JSONText(found[2])
	if !hasDelay || !hasOrigin || !hasDestination {
		return noFlight
	}
	if delay < c.Threshold {
		return nil
	}
	late = append(late[:0], `{"route":[`...)
	late = append(sluice.AppendJSONText(late, origin), ',')
	late = append(sluice.AppendJSONText(late, destination), `],"minutes":`...)
	late = append(strconv.AppendInt(late, delay, 10), '}')
	return out.Send(origin, late)
}
