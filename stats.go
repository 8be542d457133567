package cove

import "time"

// Stats is what a sandbox uses at one moment. An absent field is one that its runtime
// can't tell.
type Stats struct {
	Time      time.Time `json:"time"`
	CPUTime   *Duration `json:"cpu_time,omitempty" doc:"processor time since it was created, in seconds"`
	Memory    *Bytes    `json:"memory,omitempty" doc:"in use, without what the kernel can drop at once"`
	Limit     Bytes     `json:"memory_limit"`
	Processes *int      `json:"processes,omitempty" doc:"processes inside, the agent not counted"`
	Disk      *Bytes    `json:"disk,omitempty" doc:"written to the root filesystem"`
	DiskLimit Bytes     `json:"disk_limit"`
	Received  *Bytes    `json:"received,omitempty" doc:"bytes that came in from the network"`
	Sent      *Bytes    `json:"sent,omitempty" doc:"bytes that went out to the network"`
}
