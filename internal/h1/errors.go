package h1

// The faults of a peer. They are values, made once: refusing costs nothing.
var (
	errHead          = &Error{431, "head is too large"}
	errFields        = &Error{431, "head has too many fields"}
	errTarget        = &Error{414, "request target is too long"}
	errBareLF        = &Error{400, "line ends without CR"}
	errBlank         = &Error{400, "more than one empty line before the request line"}
	errFold          = &Error{400, "field is folded over several lines"}
	errSpace         = &Error{400, "white space before the colon of a field"}
	errName          = &Error{400, "field name is not a token"}
	errValue         = &Error{400, "field value has a control character"}
	errOption        = &Error{400, "Connection names what is not a token"}
	errLengths       = &Error{400, "more than one Content-Length"}
	errLengthValue   = &Error{400, "Content-Length is not a number"}
	errBoth          = &Error{400, "both Content-Length and Transfer-Encoding"}
	errCodings       = &Error{400, "more than one Transfer-Encoding"}
	errCoding        = &Error{400, "Transfer-Encoding does not end in chunked"}
	errCodingUnknown = &Error{501, "Transfer-Encoding other than chunked"}
	errCoding10      = &Error{400, "Transfer-Encoding in HTTP/1.0"}
	errRequestLine   = &Error{400, "malformed request line"}
	errMethod        = &Error{400, "method is not a token"}
	errConnect       = &Error{501, "CONNECT is not for HTTP inside a tunnel"}
	errTargetByte    = &Error{400, "request target has a byte that is not of a URI"}
	errTargetForm    = &Error{400, "request target is neither a path nor an http URI"}
	errAsterisk      = &Error{400, "target * without OPTIONS"}
	errVersion       = &Error{505, "version is neither HTTP/1.0 nor HTTP/1.1"}
	errNoHost        = &Error{400, "no Host"}
	errHosts         = &Error{400, "more than one Host"}
	errHost          = &Error{400, "Host is not a host with an optional port"}
	errChunkSize     = &Error{400, "chunk size is not a hexadecimal number"}
	errChunkHuge     = &Error{413, "chunk is too large"}
	errChunkLine     = &Error{400, "chunk extensions are too long"}
	errChunkByte     = &Error{400, "chunk extension has a control character"}
	errChunkEnd      = &Error{400, "chunk does not end where its size says"}
	errStatusLine    = &Error{502, "malformed status line"}
	errStray         = &Error{502, "bytes that belong to no response"}
	errSwitch        = &Error{502, "switch of protocols that was not asked for"}
)
