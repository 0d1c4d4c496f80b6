//go:build race

package segment_test

const raceDetector = 1
