package api

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-yaml"
)

// openapiYAML describes the HTTP interface. YAML can say once what many routes
// share, and has comments; what is served is JSON.
//
//go:embed openapi.yaml
var openapiYAML []byte

// openapiJSON is the document as it is served. That it can be made is tested.
var openapiJSON = sync.OnceValue(func() []byte {
	var doc map[string]any
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		panic("api: openapi.yaml: " + err.Error())
	}
	delete(doc, "x-answers") // merged into the routes
	text, err := json.Marshal(doc)
	if err != nil {
		panic("api: openapi.yaml: " + err.Error())
	}
	return text
})

// getOpenAPI answers GET /openapi.json.
func (s *Server) getOpenAPI(c *gin.Context, in *input) error {
	if err := in.done(); err != nil {
		return err
	}
	c.Header("Cache-Control", "no-cache")
	c.Data(http.StatusOK, "application/json", openapiJSON())
	return nil
}
