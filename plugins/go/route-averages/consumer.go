// The average delay of each route so far, in whole minutes towards zero.
package main

import (
	"encoding/json"
	"errors"

	"sluicegate.dev/sluice"
)

type flight struct {
	Delay       *int64  `json:"delay"`
	Origin      *string `json:"origin"`
	Destination *string `json:"destination"`
}

type sum struct {
	Count int64 `json:"count"`
	Sum   int64 `json:"sum"`
}

type average struct {
	Route string `json:"route"`
	Count int64  `json:"count"`
	Mean  int64  `json:"mean"`
}

var sums = sluice.Named("average")

func init() { sluice.Export(sluice.Func(process)) }

func main() {}

func process(event *sluice.Event, out *sluice.Outputs) error {
	var f flight
	if err := json.Unmarshal(event.Value, &f); err != nil {
		return err
	}
	if f.Delay == nil || f.Origin == nil || f.Destination == nil {
		return errors.New("no flight: it has no delay, origin and destination")
	}
	route := *f.Origin + "-" + *f.Destination
	var kept sum
	if found := sums.Get([]byte(route)); found != nil {
		if err := json.Unmarshal(found, &kept); err != nil {
			return err
		}
	}
	kept.Count++
	kept.Sum += *f.Delay
	value, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	sums.Set([]byte(route), value)
	told, err := json.Marshal(average{route, kept.Count, kept.Sum / kept.Count})
	if err != nil {
		return err
	}
	return out.Send([]byte(route), told)
}
