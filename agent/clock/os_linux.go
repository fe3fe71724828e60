package clock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the operating system's clock. Setting it needs CAP_SYS_TIME.
type OS struct{}

// Now reads the clock, without a monotonic part: a step must be seen.
func (OS) Now() time.Time { return time.Now().Round(0) }

// Step sets the clock at once, and the hardware clock with it where there is
// one, so that the next boot starts with the right date.
func (OS) Step(by time.Duration) error {
	ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return err
	}
	setRTC(time.Now().UTC())
	return nil
}

// Slew lets the kernel correct the clock at 500 ppm (adjtimex(2),
// ADJ_OFFSET_SINGLESHOT).
func (OS) Slew(by time.Duration) error {
	_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: by.Microseconds()})
	return err
}

// setRTC writes the hardware clock (rtc(4)). Machines without one are as good
// as those with: the agent sets the clock at every boot.
func setRTC(t time.Time) {
	f, err := os.OpenFile("/dev/rtc0", os.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	// An RTC that refuses is one that the next boot cannot rely on anyway.
	_ = unix.IoctlSetRTCTime(int(f.Fd()), &unix.RTCTime{
		Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()),
		Mday: int32(t.Day()), Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900,
	})
}
