//go:build !mutant_slot_early

package mutant

// SlotEarly moves the slot before the archive has the segment (against P2).
const SlotEarly = false
