// Keeps the flights that left late, and says by how much, keyed by the airport they left from.
package main

import (
	"bytes"
	"encoding/json"
	"errors"

	"sluicegate.dev/sluice"
)

type flight struct {
	Delay       *int64  `json:"delay"`
	Origin      *string `json:"origin"`
	Destination *string `json:"destination"`
}

type late struct {
	Route   [2]string `json:"route"`
	Minutes int64     `json:"minutes"`
}

type lateFlights struct {
	Threshold int64 `json:"threshold-minutes"`
}

func init() { sluice.Export(&lateFlights{30}) }

func main() {}

func (c *lateFlights) Init(config []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	return decoder.Decode(c)
}

func (c *lateFlights) Process(event *sluice.Event, out *sluice.Outputs) error {
	var f flight
	if err := json.Unmarshal(event.Value, &f); err != nil {
		return err
	}
	if f.Delay == nil || f.Origin == nil || f.Destination == nil {
		return errors.New("no flight: it has no delay, origin and destination")
	}
	if *f.Delay < c.Threshold {
		return nil
	}
	value, err := json.Marshal(late{[2]string{*f.Origin, *f.Destination}, *f.Delay})
	if err != nil {
		return err
	}
	return out.Send([]byte(*f.Origin), value)
}
