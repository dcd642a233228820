package guest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Capture reads the whole root file system as a tar archive. What is still as in
// the base image, whose files were all changed at since, is there as a hard link to
// itself. One that breaks off ends in an error.
func (c *Client) Capture(ctx context.Context, since time.Time) (io.ReadCloser, error) {
	u := base + "/files/capture?since=" + strconv.FormatInt(since.Unix(), 10)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	res, err := c.do(req)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}
