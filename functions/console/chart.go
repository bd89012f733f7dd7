package console

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/pushinbox/shared/delivery"
)

// maxBars is how many bars a chart has at most; more points are added up.
const maxBars = 96

// chartHeight is the height of a chart in its own units; each of its parts is one wide.
const chartHeight = 40

// chart is the course of a window, as the page draws it: a bar for the pushes of each
// part, and a line for what waited.
type chart struct {
	Width, Height int
	Bars          []bar
	// Lines are the points of the line, which is not drawn where nothing is known.
	Lines []string
	// Words says the same as the drawing, and Scale what its height is.
	Words, Scale string
	// Ago is how long ago the chart begins.
	Ago string
}

// bar is a rectangle of a chart.
type bar struct{ Class, X, Y, Height string }

// chartOf draws points of a window, the last at its end; usual is their distance where
// there is only one. Without any the chart is zero.
func chartOf(points []delivery.Point, window, usual time.Duration) chart {
	if len(points) == 0 {
		return chart{}
	}
	points = merged(points)
	step := usual
	if len(points) > 1 {
		step = points[1].At.Sub(points[0].At)
	}
	width := len(points)
	if step > 0 && window/step <= maxBars {
		width = max(width, int(window/step))
	}
	before := width - len(points) // of which nothing is known, such as before a start
	var most, waited, acked, refused int64
	hasBacklog := false
	for _, p := range points {
		most = max(most, p.Acked+p.Refused)
		acked += p.Acked
		refused += p.Refused
		if p.Backlog != nil {
			hasBacklog, waited = true, max(waited, *p.Backlog)
		}
	}
	c := chart{Width: width, Height: chartHeight, Ago: stepText(window)}
	c.Words = fmt.Sprintf("%s acknowledged, %s not", delivery.Count(acked), delivery.Count(refused))
	c.Scale = "no pushes"
	if most > 0 {
		c.Scale = fmt.Sprintf("at most %s in %s", delivery.Plural(most, "push", "pushes"), stepText(step))
	}
	switch {
	case waited > 0:
		c.Scale += ", at most " + delivery.Count(waited) + " waiting"
	case hasBacklog:
		c.Scale += ", none waiting"
	}
	type place struct{ x, y float64 }
	var line []place
	endLine := func() {
		if len(line) == 1 { // a point alone is drawn as wide as its part
			x, y := line[0].x, line[0].y
			line = []place{{x - .4, y}, {x + .4, y}}
		}
		var texts []string
		for _, p := range line {
			texts = append(texts, number(p.x)+","+number(p.y))
		}
		if len(texts) > 0 {
			c.Lines = append(c.Lines, strings.Join(texts, " "))
		}
		line = nil
	}
	for i, p := range points {
		y := float64(chartHeight)
		for _, part := range []struct {
			class string
			n     int64
		}{{"acked", p.Acked}, {"refused", p.Refused}} {
			if part.n <= 0 {
				continue
			}
			height := max(1.5, float64(part.n)/float64(most)*(chartHeight-2))
			y -= height
			c.Bars = append(c.Bars, bar{part.class, number(float64(before+i) + .1), number(max(y, 0)), number(height)})
		}
		if p.Backlog == nil || waited == 0 {
			endLine() // what waits is not drawn where nothing ever waited
			continue
		}
		line = append(line, place{float64(before+i) + .5, chartHeight - 1 - float64(*p.Backlog)/float64(waited)*(chartHeight-2)})
	}
	endLine()
	return c
}

// merged returns at most maxBars points that stand for these.
func merged(points []delivery.Point) []delivery.Point {
	n := (len(points) + maxBars - 1) / maxBars
	if n == 1 {
		return points
	}
	var fewer []delivery.Point
	for end := len(points); end > 0; end -= n { // the last part is a whole one
		part := points[max(0, end-n):end]
		sum := delivery.Point{At: part[len(part)-1].At, Backlog: part[len(part)-1].Backlog}
		for _, p := range part {
			sum.Acked += p.Acked
			sum.Refused += p.Refused
		}
		fewer = append(fewer, sum)
	}
	slices.Reverse(fewer)
	return fewer
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 32) }

func stepText(d time.Duration) string {
	switch {
	case d == time.Minute:
		return "a minute"
	case d == time.Hour:
		return "an hour"
	case d%time.Hour == 0:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return fmt.Sprintf("%d seconds", int(d.Seconds()))
}
