package latency

import "strconv"

// duration says milliseconds with two digits: 0.35 ms, 12 ms, 1.2 s.
func duration(ms float64) string {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(ms, 'e', 1, 64), 64)
	if err != nil {
		rounded = ms
	}
	if rounded >= 1000 {
		return strconv.FormatFloat(rounded/1000, 'f', -1, 64) + " s"
	}
	return strconv.FormatFloat(rounded, 'f', -1, 64) + " ms"
}

// count says a number of rows: 500, 1k, 1.5M.
func count(rows int) string {
	switch {
	case rows >= 1_000_000:
		return strconv.FormatFloat(float64(rows)/1e6, 'f', -1, 64) + "M"
	case rows >= 1000:
		return strconv.FormatFloat(float64(rows)/1e3, 'f', -1, 64) + "k"
	default:
		return strconv.Itoa(rows)
	}
}
