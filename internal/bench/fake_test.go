package bench

// A fakeClient notes what it is asked.
type fakeClient struct {
	t        *tunnel
	rig      *rig
	credited int
}

func (c *fakeClient) start()                    { c.t.mayAsk() }
func (c *fakeClient) ask(x *exchange)           { c.rig.asked = append(c.rig.asked, x) }
func (c *fakeClient) credit(_ *exchange, n int) { c.credited += n }
func (c *fakeClient) close()                    {}
func (c *fakeClient) abort()                    {}
