package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// settings are what the peer has told us about itself.
type settings struct {
	streams    uint32
	window     uint32
	frame      uint32
	headerList uint32
}

// initialSettings hold until the peer's arrive (RFC 9113, section 6.5.2). The
// limit on streams is unlimited there; 100 is what we dare open blindly.
var initialSettings = settings{
	streams: assumedStreams, window: initialWindow, frame: minFrame, headerList: 1<<32 - 1,
}

// announce sends our preface: SETTINGS, and the connection's window.
func (c *Conn) announce() {
	all := [...]http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: c.o.StreamWindow},
		{ID: http2.SettingMaxFrameSize, Val: c.o.MaxFrame},
		{ID: http2.SettingMaxHeaderListSize, Val: c.o.MaxHeaderList},
		{ID: http2.SettingMaxConcurrentStreams, Val: c.o.MaxStreams},
	}
	if c.role == Client {
		all[3] = http2.Setting{ID: http2.SettingEnablePush, Val: 0}
	}
	c.out.frame(typeSettings, 0, 0, 6*len(all))
	for _, s := range all {
		c.out.b = binary.BigEndian.AppendUint16(c.out.b, uint16(s.ID))
		c.out.b = binary.BigEndian.AppendUint32(c.out.b, s.Val)
	}
	if more := c.o.ConnWindow - initialWindow; more > 0 {
		c.out.word(typeWindowUpdate, 0, more)
	}
	c.inflow = newInflow(c.o.ConnWindow)
}

// settingsFrame takes the peer's SETTINGS.
func (c *Conn) settingsFrame(f *http2.SettingsFrame) error {
	if f.IsAck() {
		c.ourAcked = true
		return c.idled(1)
	}
	if err := c.idled(1 + f.NumSettings()); err != nil {
		return err
	}
	next := c.peer
	if !c.greeted {
		next.streams = 1<<32 - 1 // no longer a guess
	}
	table, retable := uint32(0), false
	for i := range f.NumSettings() {
		s := f.Setting(i)
		if err := s.Valid(); err != nil {
			return &ConnError{Code: codeOf(err)}
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			table, retable = s.Val, true
		case http2.SettingEnablePush:
			if c.role == Client && s.Val != 0 {
				return broken(CodeProtocol, "a server enabled push")
			}
		case http2.SettingMaxConcurrentStreams:
			next.streams = s.Val
		case http2.SettingInitialWindowSize:
			next.window = s.Val
		case http2.SettingMaxFrameSize:
			next.frame = s.Val
		case http2.SettingMaxHeaderListSize:
			next.headerList = s.Val
		}
	}
	if retable {
		c.enc.resize(table)
	}
	if err := c.rewindow(int64(next.window) - int64(c.peer.window)); err != nil {
		return err
	}
	c.peer, c.greeted = next, true
	c.out.frame(typeSettings, flagAck, 0, 0)
	c.change()
	return c.replied()
}

// rewindow moves the window of every stream by d (RFC 9113, section 6.9.2). Only
// the last of several values in one frame counts: what lies between would be
// undone at once, at the price of every stream.
func (c *Conn) rewindow(d int64) error {
	if d == 0 {
		return nil
	}
	for _, s := range c.streams {
		if !s.out.grow(d) {
			return broken(CodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE overflows a stream's window")
		}
	}
	if d > 0 {
		// In order, so that turns do not depend on the map.
		for _, s := range c.ordered() {
			s.schedule()
		}
	}
	return nil
}
